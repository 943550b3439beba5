"""Why GRPO with its penalty learns the honest route of skip-the-test and forgets it again."""
