"""How we talk to a model: one port, and the only importer of anthropic. Plain Python, no Django.

types     what is asked and what comes back        port      ask: call cache, budget, limits, retries, price, store
wire      to and from the SDK                      messages  one attempt through the SDK (Messages API)
limits    requests and tokens a minute             calls     finished calls, stored before they are used
budget    money, tokens and calls of a run         batches   Message Batches: submit, poll, read, resume
prices    what a call costs                        structure an answer in a given form
config    all of it from the environment           errors    ModelError and its kinds
"""
