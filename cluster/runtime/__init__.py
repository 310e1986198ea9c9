"""Ray as the jobs find it: started here or joined, with what there is of CPUs and GPUs."""
