"""The audit as a gate: which findings are open, whether they block, and records of it for others to read.

findings  findings with their rows, and which of these are open: neither accepted nor there before
baseline  accepted rows, with reasons and dates
sarif     findings as SARIF 2.1.0, for the viewers of security teams (extra `gate`)
summary   findings as Markdown, for a job's page
junit     findings as JUnit XML, for a job's tests (extra `gate`)
"""
