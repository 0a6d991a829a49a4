"""BabyAI: grid worlds described in words."""
