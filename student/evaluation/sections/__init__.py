"""One accumulator per kind of quality: fed frame by frame, each ends as a section of the result."""
