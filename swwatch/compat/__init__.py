"""Names of other projects' helpers, with their behaviour and without their side effects."""
