"""From files to studies: tables of one's own traffic, arms, trained gates, reports and plots."""
