// Copies all parameters of a network to the form that kernels read, by one launch: in the type of activations, and with
// matrices (taps, c_in, c_out) transposed to (c_out, taps, c_in), so that the terms of a product's sums are adjacent.
#include "common.cuh"

// A tile of 32 x 32 numbers of one matrix: the start of the matrix in either buffer, its sides, the distance between
// rows of its transpose, and the tile's first row and column.
struct PackTile { long long from, to, rows, columns, lead, row, column; };

// packed = flat with each tile transposed. Block (32, 8).
extern "C" __global__ void packed_parameters(const float* flat, scalar* packed, const long long* tiles) {
    PackTile at = *((const PackTile*)tiles + blockIdx.x);
    float* tile = shared;  // (32, 33)
    for (int y = threadIdx.y; y < 32; y += blockDim.y) {
        long long row = at.row + y, column = at.column + threadIdx.x;
        if (row < at.rows && column < at.columns) {
            tile[y * 33 + threadIdx.x] = flat[at.from + row * at.columns + column];
        }
    }
    __syncthreads();
    for (int y = threadIdx.y; y < 32; y += blockDim.y) {
        long long column = at.column + y, row = at.row + threadIdx.x;
        if (row < at.rows && column < at.columns) packed[at.to + column * at.lead + row] = store(tile[threadIdx.x * 33 + y]);
    }
}
