# SPDX-License-Identifier: Apache-2.0
"""The devices of a node by every id that a device plugin or a driver may use for them."""

from collections.abc import Iterable

from keda_gpu_scaler.core.types import Device


class DeviceIndex:
    """Finds devices: none, one, or every slice of a GPU that was assigned whole."""

    def __init__(self, devices: Iterable[Device]) -> None:
        self.devices = tuple(devices)
        self._by_uuid: dict[str, tuple[Device, ...]] = {}
        self._by_number: dict[tuple[int, int | None], tuple[Device, ...]] = {}
        self._by_address: dict[str, tuple[Device, ...]] = {}
        self._by_name: dict[str, tuple[Device, ...]] = {}
        self._by_instances: dict[tuple[str, int, int], tuple[Device, ...]] = {}
        # Where one minor is known the source knows minors. Then an index is never used as the number of a device file.
        has_minors = any(device.minor is not None for device in self.devices)
        for device in self.devices:
            self._add_names(device)
            number = device.minor if has_minors else device.index
            # A device with names is known by them. Its index counts the devices of one vendor only, and with several
            # vendors on the node it would be taken for the number of another vendor's device file.
            if number is not None and not device.names:
                self._add(self._by_number, (number, None), device)
                if device.gpu_instance is not None:
                    self._add(self._by_number, (number, device.gpu_instance), device)

    def _add_names(self, device: Device) -> None:
        self._add(self._by_uuid, device.uuid.lower(), device)
        if device.parent is not None:
            # A GPU that was assigned whole, and was cut into slices afterwards, is all of its slices.
            self._add(self._by_uuid, device.parent.lower(), device)
            if device.gpu_instance is not None and device.compute_instance is not None:
                key = (device.parent.lower(), device.gpu_instance, device.compute_instance)
                self._add(self._by_instances, key, device)
        for name in device.names:
            self._add(self._by_name, name.lower(), device)
        if device.pci_address:
            self._add(self._by_address, device.pci_address.lower(), device)

    @staticmethod
    def _add(table: dict, key: object, device: Device) -> None:  # type: ignore[type-arg]
        table[key] = (*table.get(key, ()), device)

    def named(self, name: str) -> tuple[Device, ...]:
        """Return the devices with this UUID or name, in any case of letters."""
        name = name.lower()
        return self._by_uuid.get(name) or self._by_name.get(name, ())

    def numbered(self, number: int, gpu_instance: int | None = None) -> tuple[Device, ...]:
        """Return the devices behind the device file of this number."""
        return self._by_number.get((number, gpu_instance), ())

    def addressed(self, address: str) -> tuple[Device, ...]:
        """Return the devices at this PCI address ("0000:19:00.0"); a domain of eight digits is shortened to four."""
        address = address.lower()
        short = address[4:] if address.startswith("0000") and address.index(":") == len("00000000") else address
        return self._by_address.get(short, ())

    def instance(self, parent: str, gpu_instance: int, compute_instance: int) -> tuple[Device, ...]:
        """Return the slice with these numbers of a GPU."""
        return self._by_instances.get((parent.lower(), gpu_instance, compute_instance), ())

    @property
    def only(self) -> tuple[Device, ...]:
        """The device of a node that has one, empty where it has none or several."""
        return self.devices if len(self.devices) == 1 else ()
