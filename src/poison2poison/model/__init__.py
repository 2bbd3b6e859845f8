"""Language models: load them, make their tokens, fine-tune them, serve them.

backbone     any base model from a folder or the hub, and what it is
prompting    the one place where prompts and targets become tokens; continuations: what comes behind a prompt; tokens:
             texts and chat templates as ids
embeddings   frozen embeddings of a base model, for the audit; shards: those of many texts, in a memory map; on_ray: by
             several workers
lora         the adapter, and the layers that it adapts
settings     what a training uses where nothing is given
trainer      fine-tune on re-poisoned rows into an artifact folder, phase by phase
run          the life of its run.json; job: what it needs; attempts: as often as memory runs out
loop         its training loop; loss: the loss of target tokens
safe_space   whether the safe space was learned
defended     the model that is served and measured; served: the trigger put on inputs; labels, texts: its two ways to
             answer, and how answers are projected back
hardware     memory, number formats and kernels; processes: several of one run
"""

import logging

# peft imports bitsandbytes wherever it is installed, which then warns of kernels for four bits that nobody asked for.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
