"""What the gateway costs, measured on real processes side by side with nginx in the same run.

*Side*: who answers the load: the gateway, nginx, a peer, or the upstream itself (`direct`). *Lane*: an upstream with
one behaviour, reached by a model of its own. *Job*: what the load generator, a process of its own, is asked to do.
*Reading*: one job through one side, and the CPU time that everybody used for it. *Measure*: the same job through all
sides in turn, in rounds. *Row*: a figure of each side for each round, beside its target.

The sides have one CPU to themselves where there are two or more; everything else shares the others.
"""
