"""The jobs: one file per command at the top, shared parts in sub-packages. Run a job as `soundstorm NAME` or
`python -m jobs.NAME`."""

from jobs.console.starting import begin

begin()
