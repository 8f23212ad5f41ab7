"""Health of the house: metrics and the doctor. Reads what the others record."""
