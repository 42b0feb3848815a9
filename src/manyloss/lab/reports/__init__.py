"""Reports: pages made from run folders. They run nothing."""
