from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class WatchRequest(_message.Message):
    __slots__ = ("interval_seconds",)
    INTERVAL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    interval_seconds: float
    def __init__(self, interval_seconds: _Optional[float] = ...) -> None: ...

class InterestRequest(_message.Message):
    __slots__ = ("seconds",)
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    seconds: float
    def __init__(self, seconds: _Optional[float] = ...) -> None: ...

class InterestReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Update(_message.Message):
    __slots__ = ("instance", "age_seconds", "snapshot", "change", "failure", "deviceless")
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    AGE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    DEVICELESS_FIELD_NUMBER: _ClassVar[int]
    instance: str
    age_seconds: float
    snapshot: bytes
    change: bytes
    failure: str
    deviceless: bool
    def __init__(self, instance: _Optional[str] = ..., age_seconds: _Optional[float] = ..., snapshot: _Optional[bytes] = ..., change: _Optional[bytes] = ..., failure: _Optional[str] = ..., deviceless: _Optional[bool] = ...) -> None: ...
