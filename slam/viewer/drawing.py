"""OpenGL items: clouds of keyframes with one vertex buffer each, and lines."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
from OpenGL import GL
from OpenGL.GL import shaders
from pyqtgraph.opengl.GLGraphicsItem import GLGraphicsItem

from slam.viewer.points import VERTEX

LARGEST = 8.0  # times its size that a point grows to when it is near

CLOUD_VERTEX = """
#version 120
uniform mat4 matrix;      // to clip coordinates
uniform vec4 camera;      // fx, fy, cx, cy px; fx = 0: points of no camera
uniform vec3 eye;         // in the keyframe's camera
uniform float least;      // confidence
uniform float size;       // px
uniform float footprint;  // px that a pixel of the keyframe covers, times depth over depth
uniform int coloring;     // 0 image, 1 confidence, 2 height, 3 keyframe
uniform vec4 height;      // 0..1 of a point
uniform vec3 tint;
uniform int both_sides;
attribute vec3 point;
attribute vec4 color;
varying vec3 shade;

vec3 ramp(float t) {  // dark violet, blue, green, yellow
  t = clamp(t, 0.0, 1.0) * 3.0;
  vec3 a = vec3(0.27, 0.02, 0.35), b = vec3(0.19, 0.41, 0.56);
  vec3 c = vec3(0.21, 0.72, 0.47), d = vec3(0.99, 0.91, 0.14);
  return t < 1.0 ? mix(a, b, t) : t < 2.0 ? mix(b, c, t - 1.0) : mix(c, d, t - 2.0);
}

void main() {
  float trust = color.a * 255.0;
  gl_Position = matrix * vec4(point, 1.0);
  bool hidden = trust + 0.5 < least;
  if (camera.x > 0.0 && both_sides == 0) {
    vec3 ray = vec3((point.xy - camera.zw * point.z) / camera.xy, point.z);
    hidden = hidden || dot(ray - eye, ray) < 0.0;
  }
  gl_PointSize = size * clamp(footprint * point.z / gl_Position.w, 1.0, LARGEST);
  if (hidden) gl_Position = vec4(2.0, 2.0, 2.0, 1.0);
  shade = color.rgb;
  if (coloring == 1) shade = ramp(log(1.0 + trust) / log(256.0));
  if (coloring == 2) shade = ramp(dot(height, vec4(point, 1.0)));
  if (coloring == 3) shade = tint * (0.45 + 0.55 * dot(color.rgb, vec3(0.3, 0.6, 0.1)));
}
""".replace("LARGEST", f"{LARGEST:.1f}")
CLOUD_FRAGMENT = """
#version 120
varying vec3 shade;
void main() { gl_FragColor = vec4(shade, 1.0); }
"""
LINE_VERTEX = """
#version 120
uniform mat4 matrix;
attribute vec3 point;
attribute vec4 color;
varying vec4 shade;
void main() { gl_Position = matrix * vec4(point, 1.0); shade = color; }
"""
LINE_FRAGMENT = """
#version 120
varying vec4 shade;
void main() { gl_FragColor = shade; }
"""
CLOUD_UNIFORMS = (
    *("matrix", "camera", "eye", "least", "size", "footprint"),
    *("coloring", "height", "tint", "both_sides"),
)


def renderer() -> str:
    """What draws, in its own words; with a context current."""
    name = GL.glGetString(GL.GL_RENDERER)
    return name.decode(errors="replace") if isinstance(name, bytes) else ""


class Program:
    """A compiled pair of shaders on VERTEX buffers, and where its inputs are."""

    def __init__(self, vertex: str, fragment: str, uniforms: tuple[str, ...]) -> None:
        self.handle = shaders.compileProgram(
            shaders.compileShader(vertex.strip(), GL.GL_VERTEX_SHADER),
            shaders.compileShader(fragment.strip(), GL.GL_FRAGMENT_SHADER),
            validate=False,
        )
        self.uniform = {name: GL.glGetUniformLocation(self.handle, name) for name in uniforms}
        self._inputs = [GL.glGetAttribLocation(self.handle, name) for name in ("point", "color")]

    def begin(self) -> None:
        """What is drawn from now on is drawn by it."""
        GL.glUseProgram(self.handle)
        for place in self._inputs:
            GL.glEnableVertexAttribArray(place)

    def end(self) -> None:
        """The end of that."""
        for place in self._inputs:
            GL.glDisableVertexAttribArray(place)
        GL.glBindBuffer(GL.GL_ARRAY_BUFFER, 0)
        GL.glUseProgram(0)

    def draw(self, kind: int, buffer: int, count: int) -> None:
        """The first `count` vertices of a buffer."""
        point, color = self._inputs
        step, after = VERTEX.itemsize, ctypes.c_void_p(VERTEX["X"].itemsize)
        GL.glBindBuffer(GL.GL_ARRAY_BUFFER, buffer)
        GL.glVertexAttribPointer(point, 3, GL.GL_FLOAT, False, step, ctypes.c_void_p(0))
        GL.glVertexAttribPointer(color, 4, GL.GL_UNSIGNED_BYTE, True, step, after)
        GL.glDrawArrays(kind, 0, count)


class Buffer:
    """Vertices on the graphics card, uploaded when they are another array than before."""

    def __init__(self) -> None:
        self.vertices = np.empty(0, VERTEX)
        self.handle = 0
        self.uploads = 0
        self._there: np.ndarray | None = None

    def upload(self) -> None:
        """With the context current."""
        if self._there is self.vertices:
            return
        self.handle = self.handle or int(GL.glGenBuffers(1))
        GL.glBindBuffer(GL.GL_ARRAY_BUFFER, self.handle)
        size = self.vertices.nbytes
        GL.glBufferData(GL.GL_ARRAY_BUFFER, size, self.vertices, GL.GL_STATIC_DRAW)
        self._there = self.vertices
        self.uploads += 1

    def free(self) -> None:
        """With the context current."""
        if self.handle:
            GL.glDeleteBuffers(1, [self.handle])
        self.handle, self._there = 0, None


@dataclass(frozen=True, slots=True)
class Part:
    """One keyframe's points in one frame, and how they are drawn."""

    buffer: Buffer  # what they are
    count: int  # how many of them
    M_WP: np.ndarray  # [4, 4] from its vertices to the world
    camera: tuple[float, float, float, float]  # fx, fy, cx, cy px; fx = 0: of no camera
    eye: np.ndarray  # [3] in the keyframe's camera, in the scale of its vertices
    footprint: float  # px on the screen that a pixel of the keyframe covers, at the same depth
    height: np.ndarray  # [4] whose product with (X, 1) is 0..1 from the lowest to the highest
    tint: tuple[float, float, float]  # colour of the keyframe, 0..1


@dataclass(frozen=True, slots=True)
class Style:
    """How all points are drawn."""

    size: float  # px of the screen's own
    least: float  # confidence
    coloring: int  # as in the shader
    both_sides: bool  # also those whose other side was seen


class CloudItem(GLGraphicsItem):
    """Draws the parts that it is given at each frame."""

    program: Program

    def initializeGL(self) -> None:
        self.program = Program(CLOUD_VERTEX, CLOUD_FRAGMENT, CLOUD_UNIFORMS)

    def draw(self, parts: list[Part], matrix: np.ndarray, style: Style) -> None:
        """With the context current. Args: matrix: [4, 4] from the world to clip coordinates."""
        GL.glEnable(GL.GL_DEPTH_TEST)
        GL.glDisable(GL.GL_BLEND)
        GL.glEnable(GL.GL_VERTEX_PROGRAM_POINT_SIZE)
        self.program.begin()
        uniform = self.program.uniform
        GL.glUniform1f(uniform["least"], style.least)
        GL.glUniform1f(uniform["size"], style.size)
        GL.glUniform1i(uniform["coloring"], style.coloring)
        GL.glUniform1i(uniform["both_sides"], style.both_sides)
        for part in parts:
            part.buffer.upload()
            whole = (matrix @ part.M_WP).astype(np.float32)
            GL.glUniformMatrix4fv(uniform["matrix"], 1, True, whole)
            GL.glUniform4f(uniform["camera"], *part.camera)
            GL.glUniform3f(uniform["eye"], *part.eye)
            GL.glUniform1f(uniform["footprint"], part.footprint)
            GL.glUniform4f(uniform["height"], *part.height)
            GL.glUniform3f(uniform["tint"], *part.tint)
            self.program.draw(GL.GL_POINTS, part.buffer.handle, part.count)
        self.program.end()


class LinesItem(GLGraphicsItem):
    """Line segments of the world."""

    program: Program

    def initializeGL(self) -> None:
        self.program = Program(LINE_VERTEX, LINE_FRAGMENT, ("matrix",))

    def draw(
        self, buffer: Buffer, count: int, matrix: np.ndarray, width: float, *, on_top: bool
    ) -> None:
        """With the context current.

        Args:
            count: vertices, the first ones. matrix: [4, 4] from the world to clip coordinates.
            width: px.
            on_top: whatever lies before it.
        """
        (GL.glDisable if on_top else GL.glEnable)(GL.GL_DEPTH_TEST)
        GL.glDepthFunc(GL.GL_LEQUAL)  # a path hides the edges that lie on it
        GL.glEnable(GL.GL_BLEND)
        GL.glBlendFunc(GL.GL_SRC_ALPHA, GL.GL_ONE_MINUS_SRC_ALPHA)
        GL.glLineWidth(width)
        self.program.begin()
        GL.glUniformMatrix4fv(self.program.uniform["matrix"], 1, True, matrix.astype(np.float32))
        buffer.upload()
        self.program.draw(GL.GL_LINES, buffer.handle, count)
        self.program.end()
