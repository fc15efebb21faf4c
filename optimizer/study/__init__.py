"""Policies over a table of measured qualities, judged on prompts that nothing had seen.

Public: `Table` (`table`), `run_study`, `StudySettings` (`study`), `summarise` (`summary`).
"""
