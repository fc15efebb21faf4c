"""Policies over a table of measured qualities, judged on prompts that nothing had seen.

Public: `Table` (`table`), `StudySettings` (`record`), `run_study` (`study`), `summarise` (`summary`).
"""
