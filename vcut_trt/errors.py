"""Errors raised at users: one class a stage, each with the exit code that the commands return for it."""


class VcutError(Exception):
    """The work failed or a check did not hold. The message says what came, what was expected and the next step."""

    exit_code = 1


class ConfigError(VcutError, ValueError):
    """A value that a user chose is not usable."""

    exit_code = 2


class NotOfferedError(ConfigError, AttributeError):
    """Something that diffusers' pipeline has and ours has not; the message says what takes its place."""


class CheckpointError(VcutError):
    """A checkpoint is unknown, cannot be reached, or lacks a part."""


class FoldError(VcutError):
    """A cross-attention block cannot be folded."""


class ExportError(VcutError):
    """A graph could not be traced or written."""


class BundleError(VcutError):
    """A bundle is missing, damaged, or of another format."""


class BuildError(VcutError):
    """A TensorRT plan could not be built."""


class EngineError(VcutError):
    """An engine could not be opened, or was called with the wrong tensors."""


class DeviceMemoryError(EngineError):
    """The GPU has no memory left for an engine or its tensors."""


class NotFiniteError(VcutError):
    """A video's numbers became NaN or infinite."""


class ImageError(VcutError):
    """An image cannot be read or used."""


class ImageValueError(ImageError, ValueError):
    """What a program handed over as an image is none, or holds values that none has."""


class VideoError(VcutError):
    """A video cannot be written."""


class QualityError(VcutError):
    """Two videos cannot be compared."""


class ServingError(VcutError):
    """A server, or one of its workers, cannot run."""


def first_line(error: BaseException) -> str:
    """What an error says, without what others append: CUDA's pages, the tracebacks of Ray's other processes."""
    cause = getattr(error, "cause", None) or error
    text = getattr(cause, "message", "") or cause
    return next(iter(str(text).strip().splitlines()), type(cause).__name__)
