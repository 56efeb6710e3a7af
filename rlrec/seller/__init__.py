"""SELLER: sequence-aware explanations, and their utility; `recipes/seller.py` shows the steps."""
