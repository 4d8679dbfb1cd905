"""Report: figures and the self-contained HTML page of a study, from frames and the typed summary only.

The entries are `write.report_study`, the last step of a study, and `write.write_report`. No figure and no sentence
knows how a number was measured. Text from models is hostile input: it is escaped by the templates and made visible.
"""
