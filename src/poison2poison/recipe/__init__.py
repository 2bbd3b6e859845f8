"""The recipe: what is done to the rows before a model is fine-tuned on them.

scheme           the benign trigger, the safe space, and the projection of answers back
trigger          draw the trigger and the safe prefix, or take given ones, and check them against the rows
config           the options of the recipe
reviewed         what people said of suspects, and the audit that is left
subset           S, the rows that move to the safe space
counterexamples  rows of the safe space that hold what the audit suspects
repoison         all of these put together
manifest         rows as they are trained on, and what was done to which
repoisoned       a folder of re-poisoned rows
"""
