Frames=None
load=None
