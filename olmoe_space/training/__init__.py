"""How assets/olmoe-tiny was made: corpus -> tokenizer -> training -> average -> hub folder -> figures -> model card.

Nothing in the app imports this package; `python -m olmoe_space.training --help` is its only door.
"""
