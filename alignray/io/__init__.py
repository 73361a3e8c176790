"""Files in and out: pages, run folders, call journals, exports."""
