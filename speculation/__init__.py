"""The science, pure and clock-free: token tree, shared noise, fusion, routing, budgets, verification rules."""
