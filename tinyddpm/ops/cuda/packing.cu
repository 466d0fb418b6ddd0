// All parameters of a network as its kernels read them, by one launch: in the type of activations, and the matrices of a
// window of taps, (taps, c_in, c_out), turned to (c_out, taps, c_in), so that what a product sums over lies side by side.
#include "common.cuh"

// A tile of 32 x 32 numbers of one matrix: where the matrix begins, in both buffers, its sides, the numbers between two
// of its rows when it is turned, and where in it the tile begins.
struct PackTile { long long from, to, rows, columns, lead, row, column; };

// packed = flat, tile by tile. Block (32, 8).
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
