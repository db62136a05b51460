"""The one rule by which frames of a scene are held out, for its field and for a student that has no other scene."""


def held_out_frames(num_frames: int, *, every: int) -> tuple[int, ...]:
    """Return the middle frame of every ``every`` frames, so that frames on both of its sides are learned from.

    Args:
        num_frames: Frames of the scene.
        every: Distance between held-out frames, frames; 0 holds none out.
    """
    return tuple(range(every // 2, num_frames, every)) if every else ()
