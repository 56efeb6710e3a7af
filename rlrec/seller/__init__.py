"""SELLER: explanations that know the sequence, and how useful they are to a recommender (SPEC section 3)."""
