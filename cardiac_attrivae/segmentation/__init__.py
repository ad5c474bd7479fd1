"""Networks that outline the heart."""
