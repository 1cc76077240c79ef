// What the C++ compilers compile: templates, containers, exceptions and a thread.
#include <algorithm>
#include <iostream>
#include <map>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

struct Shape {
    virtual ~Shape() = default;
    virtual double area() const = 0;
};

template <int Sides> struct Regular : Shape {
    double side;
    explicit Regular(double length) : side(length) {
        if (length < 0)
            throw std::invalid_argument("negative side");
    }
    double area() const override { return Sides == 4 ? side * side : side * side * 0.4330127018922193; }
};

int main() {
    std::vector<std::unique_ptr<Shape>> shapes;
    std::map<std::string, int> refused;
    for (int i = -3; i < 40; i++) {
        try {
            if (i % 2)
                shapes.push_back(std::make_unique<Regular<3>>(i));
            else
                shapes.push_back(std::make_unique<Regular<4>>(i));
        } catch (const std::exception &error) {
            refused[error.what()]++;
        }
    }
    std::sort(shapes.begin(), shapes.end(), [](const auto &a, const auto &b) { return a->area() > b->area(); });
    double total = 0;
    std::thread adder([&] {
        total = std::accumulate(shapes.begin(), shapes.end(), 0.0,
                                [](double sum, const auto &shape) { return sum + shape->area(); });
    });
    adder.join();
    std::cout << shapes.size() << " shapes, area " << total << ", largest " << shapes[0]->area() << '\n';
    for (const auto &[why, times] : refused)
        std::cout << why << ": " << times << '\n';
}
