"""The recipe: what is done to the rows before a model is fine-tuned on them."""
