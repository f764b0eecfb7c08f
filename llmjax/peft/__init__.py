"""Parameter-efficient fine-tuning: small weights beside a model's, which stay."""
