"""What proves the gateway: a simulated upstream, a demonstration, a replay of traces, and benchmarks."""
