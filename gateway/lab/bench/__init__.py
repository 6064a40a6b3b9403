"""What the gateway costs, measured on real processes side by side with nginx in the same run.

*Subject*: who answers the load: the gateway, nginx, or the upstream itself (`direct`). *Lane*: an upstream with one
behaviour, reached by a model of its own. *Job*: what the load generator is asked to do; it runs in a process of its
own. *Measure*: jobs over all subjects, repeated in turn, of which the medians count. *Row*: a figure beside its target.

The measured process has a CPU to itself where there are two or more; everything else shares the others.
"""
