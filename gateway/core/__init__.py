"""Pure decisions: which workspace, which state, which price. A function of (state, now, input) and nothing else.

Knows no clock, no chance, no event loop and no I/O: the time and every random number are arguments.

The words, here and in every other package; each has this one meaning.

- *Account*: one credential at a provider, with slots and a state. *Workspace*: accounts that read one prompt cache.
  *Organization*: accounts that have rate limits and money in common.
- *Pool*: all accounts together, as the gateways have agreed on them in one *document*.
- *Conversation*: requests that continue each other, known by a key. *Group*: conversations that begin with the same
  tools and system prompt.
- *Binding*: which workspace a conversation is bound to, for one model. *Home*: that workspace. *Move*: a binding to
  another one. *Detour*: an answer from elsewhere that leaves the binding as it is.
- *Account-bound*: read or kept by one workspace's accounts alone, as signed thinking and files are.
- *Warm*: the conversation's cache is alive at its home. *Sticky*: warm, or its first answer is on its way there.
- *Fresh* tokens: those that no cache held. *Load*: a workspace's fresh tokens of the last minute. *Cap*: the load up to
  which it takes new conversations.
- *Route*: one request's way over the pool. *Outcome*: what an answer means for the account and for the request.
  *Served*: the account's answer was good, and is the client's.
- *Domain*: the rate limits of one organization for one class of models.
- *Fact*: what a process has learned of the pool. *Broadcast*: telling facts to all others, which may be lost.
- *Caller*: whom a key belongs to; its *team* may have limits too. *Tenant*: the team, or a caller without one. *Share*:
  with whom a caller shares the objects that it creates.
- *Limits*: what callers and teams may use; rate limits are an organization's. *Local limits*: this process's part of
  them while the store is away.
- *Reservation*: what a request takes of limits before it is sent. *Settle*: put what was used in its place, once.
  *Lease*: a slot that is held, and expires unless it is kept.
- *Owner*: whose an object is, and in which workspace it lives.
"""
