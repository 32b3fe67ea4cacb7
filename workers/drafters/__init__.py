"""One file for each kind of drafter, behind one Drafter protocol."""
