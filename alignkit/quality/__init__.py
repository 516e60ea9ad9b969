"""What preference data are worth before a model sees them: duplicates, contradictions, skews, wrong labels. Texts alone, no weights."""
