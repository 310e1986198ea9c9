"""The jobs: one file for each, started as `soundstorm NAME` or `python -m jobs.NAME`."""

from jobs.starting import begin

begin()
