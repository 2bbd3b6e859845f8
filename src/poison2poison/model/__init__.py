"""Language models: load them, make their tokens, fine-tune them, serve them.

backbone     any base model from a folder or the hub, and what it is
prompting    the one place where prompts and targets become tokens
embeddings   frozen embeddings of a base model, for the audit
trainer      fine-tune on re-poisoned rows into an artifact folder
defended     the model that is served and measured
"""
