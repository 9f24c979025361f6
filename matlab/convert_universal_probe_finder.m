function convert_universal_probe_finder(file, out_folder, probes)
% CONVERT_UNIVERSAL_PROBE_FINDER  Probes traced with the Universal Probe Finder as xyz_picks.json for IBL's
% alignment tool.
%
%   convert_universal_probe_finder(file, out_folder)
%   convert_universal_probe_finder(file, out_folder, {'probe00', 1; 'probe01', 2})
%   convert_universal_probe_finder(file, out_folder, {'probe00_shank1', 'left'; 'probe00_shank2', 'right'})
%
%   file        slice file (sSliceData), exported tracks or a probe's location (sProbeCoords); aligned to the
%               Allen CCF mouse atlas
%   out_folder  folder for xyz_picks.json, or <probe>/xyz_picks.json
%   probes      which probe a track (number or name) is; not needed where there is one track only
%
%   See write_xyz_picks for what the picks are. Runs in MATLAB and Octave, without the Universal Probe Finder.

  if nargin < 3
    probes = {};
  end
  loaded = load(file);
  if isfield(loaded, 'sProbeCoords')
    [names, points] = exported_tracks(file, loaded.sProbeCoords);
  elseif isfield(loaded, 'sSliceData')
    [names, points] = slice_tracks(loaded.sSliceData);
  else
    error('powerpixels:histology', ...
      '%s: expected sProbeCoords or sSliceData, found neither; save it with its tool', file);
  end
  % Its atlas is the Allen CCF with all axes reversed, as ML, AP, DV, in voxels of 10 micrometres counted from
  % 1; a voxel's place in the CCF is its index from 0 times its size, as AP, DV, ML.
  for k = 1:numel(points)
    reversed = repmat(atlas_size(), size(points{k}, 1), 1) - points{k};
    points{k} = reversed(:, [2 3 1]) * 10;
  end
  write_xyz_picks(file, names, points, out_folder, probes);
end

function voxels = atlas_size()
% ML, AP, DV.
  voxels = [1140 1320 800];
end

function [names, points] = exported_tracks(file, coords)
% Names and voxels (n x 3: ML, AP, DV) of sProbeCoords.
  fields = {'sourceatlas', 'AtlasType'};
  for k = 1:numel(fields)
    named = isfield(coords, fields{k}) && ischar(coords.(fields{k}));
    if named && ~strcmp(coords.(fields{k}), 'Allen-CCF-Mouse')
      error('powerpixels:histology', '%s: expected a tracing on Allen-CCF-Mouse, found %s', ...
        file, coords.(fields{k}));
    end
  end
  current = isfield(coords, 'format') && strcmp(coords.format, 'ML,AP,DV');
  foreign = isfield(coords, 'Type') && ~strcmp(coords.Type, 'native');
  if ~current && (isfield(coords, 'sProbeAdjusted') || foreign)
    error('powerpixels:histology', ...
      '%s: expected points as ML,AP,DV, found an old version''s; save it with version 1.1 or newer', file);
  end
  n = numel(coords.cellPoints);
  names = repmat({''}, 1, n);
  points = cell(1, n);
  for k = 1:n
    voxels = double(coords.cellPoints{k});
    if size(voxels, 1) == 3 && size(voxels, 2) > 3
      voxels = voxels';
    end
    if isempty(voxels)
      voxels = zeros(0, 3);
    end
    points{k} = voxels;
    if isfield(coords, 'cellNames') && k <= numel(coords.cellNames)
      names{k} = char(coords.cellNames{k});
    end
  end
end

function [names, points] = slice_tracks(data)
% Names and voxels (n x 3: ML, AP, DV) of the clicks on all slices.
  n = numel(data.Track);
  names = cell(1, n);
  points = cell(1, n);
  for k = 1:n
    names{k} = char(data.Track(k).name);
    points{k} = zeros(0, 3);
  end
  for j = 1:numel(data.Slice)
    clicks = data.Slice(j).TrackClick;
    for i = 1:numel(clicks)
      track = clicks(i).Track;
      % Slices nobody drew on have one click of track 0.
      if isempty(track) || track == 0 || isempty(clicks(i).Vec)
        continue
      end
      points{track} = [points{track}; slice_to_atlas(double(clicks(i).Vec), data.Slice(j))];
    end
  end
end

function voxels = slice_to_atlas(pixels, slice)
% Voxels (n x 3: ML, AP, DV) of a slice's pixels (n x 2: x, y): scale, subtract from the middle, rotate by
% yaw, pitch and roll, add the slice's centre. The way of the Universal Probe Finder's SF_SlicePts2AtlasPts.
  rows = size(slice.ImTransformed, 1);
  columns = size(slice.ImTransformed, 2);
  whole = atlas_size();
  fitting = min(whole(1) / columns, whole(2) / rows);
  scale_x = value_of(slice, 'ResizeLeftRight', fitting);
  scale_y = value_of(slice, 'ResizeUpDown', fitting);
  centre = value_of(slice, 'Center', whole / 2);
  midline = value_of(slice, 'MidlineX', 0);
  if midline == 0
    midline = columns / 2;
  end

  n = size(pixels, 1);
  away = [midline * scale_x - pixels(:, 1) * scale_x, ...
    zeros(n, 1), ...
    round(rows * scale_y) / 2 - pixels(:, 2) * scale_y];
  yaw = value_of(slice, 'RotateAroundDV', 0) * pi / 180;
  pitch = value_of(slice, 'RotateAroundML', 0) * pi / 180;
  roll = value_of(slice, 'RotateAroundAP', 0) * pi / 180;
  about_dv = [cos(yaw) -sin(yaw) 0; sin(yaw) cos(yaw) 0; 0 0 1];
  about_ap = [cos(roll) 0 sin(roll); 0 1 0; -sin(roll) 0 cos(roll)];
  about_ml = [1 0 0; 0 cos(pitch) -sin(pitch); 0 sin(pitch) cos(pitch)];
  % Points are rows, and the rotation is the transpose of this product: so it stands on the right as it is.
  voxels = away * (about_dv * about_ap * about_ml) + repmat(reshape(centre, 1, 3), n, 1);
end

function value = value_of(slice, field, default)
% A slice's value, or what stands for it where it was never set.
  value = default;
  if isfield(slice, field) && ~isempty(slice.(field))
    value = double(slice.(field));
  end
end
