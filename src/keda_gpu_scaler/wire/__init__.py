# SPDX-License-Identifier: Apache-2.0
"""Wire formats: generated protobuf stubs, the snapshot codec, recordings, and TLS for gRPC."""
