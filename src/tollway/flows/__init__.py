"""THE STRAIGHT LINES: one short file per story, composition only. Start reading here."""
