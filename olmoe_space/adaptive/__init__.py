"""Adaptive k: how many experts a prompt gets, and why. Pure Python; imports nothing else of this package.

choice.py adds up the points, text.py reads the words, lexicon.py finds known terms, morphology.py judges unknown
words, signals.py sees code, formulas, question form, names and small talk.
"""

from .choice import Choice, Contribution, Term, choose

__all__ = ["Choice", "Contribution", "Term", "choose"]
