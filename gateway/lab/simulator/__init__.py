"""A fake Anthropic API, and fake clouds that serve its models, for tests, demonstrations and load: real where it
matters, and fast.

*World*: the accounts, their workspaces (cache domains) and organizations (limit domains). *Service*: decides each
answer. *Object*: what a client created, known in its workspace only. *Reply*: an answer as a script of waits and
bytes. *Fault*: trouble on command, which edits a reply. *Player*: plays a reply on a socket. *Record*: what was seen.
The control plane is under `/_sim/`.
"""

from gateway.lab.simulator.faults import Fault, Faults
from gateway.lab.simulator.records import Record, Records
from gateway.lab.simulator.server import Simulator
from gateway.lab.simulator.settings import Settings
from gateway.lab.simulator.world import Account, Cloud, Limits, World

__all__ = ["Account", "Cloud", "Fault", "Faults", "Limits", "Record", "Records", "Settings", "Simulator", "World"]
