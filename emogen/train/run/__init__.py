"""What stands around a loop: folder, log, resume, processes."""
