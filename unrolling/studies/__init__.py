"""The paper subject by subject: what it says, what is found, and the ledger of all its claims."""
