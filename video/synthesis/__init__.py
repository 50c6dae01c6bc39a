"""A sample of small encoded videos whose classes differ only in motion and its order.

Every scene is a smooth texture under a slowly moving camera. Through a window with feathered
edges, about a third of the frame, a second texture is seen that moves along a closed path of its
own. In an `authentic` video the clock of that path is the clock of the video. In a `tampered` one
it stutters, replays its moments out of order or runs backwards for most of the time.

Both classes therefore show the same pictures: a window, and in it a texture at some point of its
path. The path closes on itself within a clip, so that pairs of frames in random order look alike
as well. The difference is the step from one moment to the next: steady in `authentic`, none or
large in `tampered`.
"""
