"""Who may, how much, and what they owe: accounts, access, catalog, metering, rating, ledger, billing. Knows no tensor."""
