"""Every service and message of the contract, from the generated descriptors."""

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType

from google.protobuf.descriptor import FileDescriptor, MethodDescriptor, ServiceDescriptor

import chatmesh.mesh.v1
import chatmesh.v1


def files(package: ModuleType) -> list[FileDescriptor]:
    """All .proto files of a package of stubs."""
    return [
        importlib.import_module(f"{package.__name__}.{module.name}").DESCRIPTOR
        for module in pkgutil.iter_modules(package.__path__)
        if module.name.endswith("_pb2")
    ]


def services(package: ModuleType) -> list[ServiceDescriptor]:
    """All services of a package of stubs."""
    return [one for file in files(package) for one in file.services_by_name.values()]


def methods(package: ModuleType) -> dict[str, MethodDescriptor]:
    """Every RPC of a package by its path `/package.Service/Method`."""
    return {
        f"/{service.full_name}/{method.name}": method
        for service in services(package)
        for method in service.methods
    }


def public_methods() -> dict[str, MethodDescriptor]:
    """What clients may call."""
    return methods(chatmesh.v1)


def mesh_methods() -> dict[str, MethodDescriptor]:
    """What services say to each other."""
    return methods(chatmesh.mesh.v1)


def all_files() -> Iterator[FileDescriptor]:
    """Public and mesh."""
    yield from files(chatmesh.v1)
    yield from files(chatmesh.mesh.v1)
