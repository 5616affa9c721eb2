"""Opens an OpenGL widget as the viewer would, and says what draws it; fails where it cannot."""

from __future__ import annotations

from pyqtgraph.opengl import GLViewWidget

from slam.viewer.application import application
from slam.viewer.drawing import renderer

if __name__ == "__main__":
    application()
    widget = GLViewWidget()
    widget.grabFramebuffer()
    if not widget.isValid():
        raise RuntimeError("this display has no OpenGL")
    widget.makeCurrent()
    print(renderer())
