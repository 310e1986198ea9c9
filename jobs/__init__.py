"""The jobs: one file for each command at the top, what they share in rooms; started as `soundstorm NAME` or `python -m
jobs.NAME`."""

from jobs.console.starting import begin

begin()
