"""Per-scene neural field fitted by nerfstudio, in nerfstudio's own environment.

Modules that import nothing from nerfstudio (``config``, ``contraction``, ``encoding``, ``losses``, ``scene_rays``,
``quality``, ``checkpoint``) work anywhere torch does; the others run under ``.venv-nerfstudio`` only, through
``worker``.
"""
