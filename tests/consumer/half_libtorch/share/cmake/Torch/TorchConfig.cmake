# A folder that looks like a LibTorch and has no library in it.
